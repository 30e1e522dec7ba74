"""Networks that others have trained, behind the contract of this package."""
