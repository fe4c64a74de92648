"""Which layers of a model are its first layers?"""
