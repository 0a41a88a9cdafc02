"""The service controller: knows the devices, serves split decisions, follows drift."""
