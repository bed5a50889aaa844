"""Runs as library objects: what each command does, callable from Python with the same result."""
