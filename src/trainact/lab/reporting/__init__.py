"""`trainact report`: one page and its pictures from the records of the laboratory.

Records are read (`reading`), sorted into experiments and matched with recipes
(`grouping`), turned into numbers (`scores`, `lengths`, `speed`, put together in
`study`; `across` compares many networks), and shown (`figures`, `tables`, `page`).
"""
