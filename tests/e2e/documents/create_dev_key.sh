curl -X POST http://localhost:8000/api/v1/auth/keys/dev
