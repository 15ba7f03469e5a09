class MonkeyCoderClient {
    constructor(baseUrl = 'http://localhost:8000', apiKey = null) {
        this.baseUrl = baseUrl;
        this.apiKey = apiKey;
    }

    async executeTask(prompt, taskType = 'code_generation') {
        const data = {
            task_id: `task-${Date.now()}`,
            task_type: taskType,
            prompt: prompt,
            context: {
                user_id: 'api-user',
                session_id: 'session-1',
                environment: 'nodejs-client'
            },
            persona_config: {
                persona: 'developer'
            }
        };

        const response = await fetch(`${this.baseUrl}/api/v1/execute`, {
            method: 'POST',
            headers: {
                'Content-Type': 'application/json',
                'Authorization': `Bearer ${this.apiKey}`
            },
            body: JSON.stringify(data)
        });

        return await response.json();
    }
}

// Usage
const client = new MonkeyCoderClient('http://localhost:8000', 'mk-YOUR_API_KEY');
client.executeTask('Create a React component').then(console.log);
