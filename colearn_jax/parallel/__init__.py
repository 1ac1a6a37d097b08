"""Devices and processes: the mesh, its sharding rules, jobs of many processes, and full memory."""
