"""DICOM files: one frame, from the bytes of the file to grey values in [0, 1], and what the tags say about it."""
