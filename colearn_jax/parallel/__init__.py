"""Devices and processes: the mesh, its sharding rules, and jobs of many processes."""
