"""Reads pretrained weights from PyTorch and safetensors files, without PyTorch."""
