"""Notebooks for Colab and Jupyter; each .ipynb is built from its .py by notebooks.build."""
