"""Whose XᵀX: a call's own, all ranks', all micro-batches', or an estimate."""
