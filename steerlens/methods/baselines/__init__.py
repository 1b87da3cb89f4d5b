"""Rivals of a steer, one file each."""
