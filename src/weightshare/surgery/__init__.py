"""Read and edit any `nn.Module`; knows nothing about sharing."""
