"""One-sensor models for prediction; independent of the training code."""
