curl -H "Authorization: Bearer mk-YOUR_API_KEY" \
     http://localhost:8000/api/v1/auth/status
