"""Where training images come from: folders of images or DICOM files, with class folders or a table (CSV).

`preparing.open_source` reads the listing, `prepare` the images of some of its roles, lazily: what is held in memory
does not grow with the data set.
"""
