"""All that is Flower's: its processes, the tasks that they hand out, and messages over its Grid."""
