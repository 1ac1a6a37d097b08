"""TreeSatAI-Time-Series: tree genera from an aerial image and a year of Sentinel-1 and Sentinel-2."""
