"""What an installation needs: the lines of requirements.txt that are no options of pip."""

from pathlib import Path

from setuptools import setup

lines = Path(__file__).with_name("requirements.txt").read_text(encoding="utf-8").splitlines()
setup(install_requires=[line for line in lines if not line.startswith("-")])
