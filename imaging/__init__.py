"""One reading of images for training and serving: a file -> grey pixels in [0, 1] -> the tensor of a model card."""
