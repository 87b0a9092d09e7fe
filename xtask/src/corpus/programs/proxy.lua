-- Everything goes to a server that does not exist.
function mcp_config_pools(old)
	return mcp.pool({ mcp.backend('nowhere', '127.0.0.1', SECOND) })
end

function mcp_config_routes(pool)
	mcp.attach(mcp.CMD_ANY_STORAGE, function(request) return pool(request) end)
end
