"""One module for each step, oldest first; what has been released is never changed."""
