"""Persona vectors out of files that other programs wrote."""
