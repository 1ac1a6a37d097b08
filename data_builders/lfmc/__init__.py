"""LFMC: live fuel moisture content of the western United States."""
