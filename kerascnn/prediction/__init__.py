"""A finished run put to use: predictions of image files, accuracies on other sets."""
