"""Speed, side by side with the alternatives; each prints its own table."""
