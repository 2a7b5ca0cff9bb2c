"""What runs leave for people: pages, charts, intervals."""
