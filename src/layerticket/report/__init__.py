"""Tables and pages of measured figures; pure: never trains, never measures."""
