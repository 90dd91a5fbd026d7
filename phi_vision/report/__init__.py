"""What people look at: pages, charts and tables. Runs without torch."""
