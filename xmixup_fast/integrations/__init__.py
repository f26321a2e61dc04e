"""XMixup in the trainers of other libraries, a file each, which imports its library."""
