"""Real servers for the end-to-end tests: each class starts one, waits for it, and ends it by pid."""
