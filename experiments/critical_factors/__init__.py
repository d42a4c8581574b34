"""What influences recognition, and how much: python -m experiments.critical_factors"""
