"""Speed and memory against what a user would otherwise do. `make bench` prints the table."""
