"""What runs inside of a worker, in plain calls: an item on a model replica, and what a pool and its caller exchange."""
