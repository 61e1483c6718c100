"""The engines: one file each, behind the port in `generator.engine`."""
