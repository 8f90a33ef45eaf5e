"""Many runs at once: tasks of Ray, and a live table of them."""
