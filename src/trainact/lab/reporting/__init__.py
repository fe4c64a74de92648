"""`trainact report`: one page and its pictures from the records of the laboratory.

Records are read (`reading`), sorted into experiments and matched with recipes
(`grouping`), turned into numbers (`statistics`, `lengths`, `zoo`, put together in
`study`), and shown (`figures`, `tables`, `page`).
"""
