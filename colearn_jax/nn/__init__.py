"""Layers, convolutions and random numbers that all encoders share."""
