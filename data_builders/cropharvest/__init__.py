"""CropHarvest: crop or not, and which group of crops, from a year of satellite data."""
