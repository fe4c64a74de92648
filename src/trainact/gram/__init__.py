"""A layer's input -> XᵀX, the sum of the outer products of its rows."""
