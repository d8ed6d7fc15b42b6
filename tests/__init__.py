"""shimproxy's tests; design.md section 6 says what is tested how."""
