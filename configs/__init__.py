"""Configurations, one file a data set: `--config=configs/NAME.py`; `common` says how to change them."""
