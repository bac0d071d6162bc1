"""Speed and memory of the suite, measured beside plain loops."""
