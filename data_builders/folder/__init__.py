"""A user's own data: a table of samples and a file of values for each of them and each sensor."""
