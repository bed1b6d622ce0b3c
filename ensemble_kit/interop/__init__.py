"""Our models in other people's workflows, and their data in ours."""
