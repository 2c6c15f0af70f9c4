"""Formulas in index notation: built from the records, differentiated, contracted, tidied, evaluated.

Everything here is SymPy; nothing here is imported before a formula is wanted.
"""
