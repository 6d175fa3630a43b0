"""Quicklook pictures and validation."""
