"""Notebooks for Colab and Jupyter; each .py is the source of the .ipynb beside it (`python -m notebooks.build`)."""
