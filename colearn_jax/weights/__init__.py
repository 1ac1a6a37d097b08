"""Files of weights trained elsewhere: PyTorch, safetensors, ImageNet."""
