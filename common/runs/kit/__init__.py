"""Short versions of the functions and classes that recipes import from `common`, for copies of recipes.

`common/runs/copying.py` pastes the definitions that a recipe uses into the copy. Therefore, a definition depends only
on the standard library, installed packages and other definitions of the kit, and all names in the kit are unique.
Methods that a copy does not use are left out.

A line that ends in `# only with: TEXT` is pasted, with the block below it, only if the recipe contains TEXT. On a line
of its own, the comment applies to the next statement. `# only with: A or B` requires one of the texts A and B. `# only
without: TEXT` is the opposite.
"""
