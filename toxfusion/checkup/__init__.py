"""What `toxfusion.doctor` looks at: the installation, and a study with its stores."""
