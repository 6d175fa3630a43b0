"""What one unit of work does."""
