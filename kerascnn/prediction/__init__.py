"""A finished run put to use: predictions of image files, and figures on other sets."""
