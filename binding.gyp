# The addon: build/Release/proxyvpn.node. Run through scripts/build.mjs, which puts lwIP into .deps first.
{
  'targets': [
    {
      # Unmodified; its warnings are not ours to mend. PROXYVPN_ASSERTS is not defined: see native/tcp/lwipopts.h.
      'target_name': 'lwip',
      'type': 'static_library',
      'sources': ['<!@(node scripts/sources.mjs lwip)'],
      'include_dirs': ['native/tcp', '.deps/lwip/src/include'],
      'cflags!': ['-O3', '-Wall', '-Wextra', '-Wno-unused-parameter'],
      'cflags': ['-O2', '-fPIC', '-fvisibility=hidden', '-w'],
    },
    {
      'target_name': 'proxyvpn',
      'dependencies': ['lwip'],
      'sources': ['<!@(node scripts/sources.mjs core)', '<!@(node scripts/sources.mjs binding)'],
      'include_dirs': ['native', 'native/tcp'],
      'defines': ['NAPI_VERSION=9', 'NAPI_DISABLE_CPP_EXCEPTIONS'],
      'cflags!': ['-O3', '-Wno-unused-parameter'],
      'cflags_cc!': ['-std=gnu++17', '-std=gnu++20'],
      # -isystem: a warning in somebody else's header is not our error.
      'cflags': [
        '-O2', '-Wall', '-Wextra', '-Werror', '-fvisibility=hidden',
        '-isystem', '<(module_root_dir)/.deps/lwip/src/include',
        '-isystem', '<(module_root_dir)/node_modules/node-addon-api',
      ],
      # -fno-gnu-unique: one engine copy per queue is loaded, and none may share another's statics.
      'cflags_cc': [
        '-std=c++20', '-fno-exceptions', '-fno-rtti', '-fno-gnu-unique', '-fvisibility-inlines-hidden',
      ],
    },
  ],
}
