/*
 * Guest code for the tests of an accelerator. Each payload is copied to GUEST_CODE (0x1000) of guest memory and started
 * there; it is position-dependent on that address alone. Ports: 0xF4 ends a payload (the harness kicks the vCPU).
 */
	.section .rodata, "a"

	.macro payload name
	.balign 16
	.globl payload_\name, payload_\name\()_end
payload_\name:
	.endm
	.macro payload_end name
payload_\name\()_end:
	.endm

/* Absolute guest address of a label inside a payload; processor 1's is copied to 0x7000 instead and uses none. */
#define AT(name, label) (label - payload_##name + 0x1000)

/* --- real mode: port output and input of all widths; what was read goes out again --- */
	.code16
payload real_ports
	movb $0x11, %al
	outb %al, $0x50
	movw $0x3322, %ax
	movw $0x1234, %dx
	outw %ax, %dx
	movl $0x77665544, %eax
	outl %eax, %dx
	inb %dx, %al
	outb %al, $0x51
	inw %dx, %ax
	outw %ax, $0x52
	inl %dx, %eax
	outl %eax, $0x53
	outb %al, $0xF4
1:	hlt
	jmp 1b
payload_end real_ports

/* --- real mode: string output and input --- */
payload real_strings
	cld
	movw $AT(real_strings, 2f), %si
	movw $0x560, %dx
	movw $5, %cx
	rep outsb
	movw $0x2000, %di
	movw $3, %cx
	rep insw
	movw $0x2000, %si
	movw $3, %cx
	rep outsw
	outb %al, $0xF4
1:	hlt
	jmp 1b
2:	.ascii "vireo"
payload_end real_strings

/* --- real mode: counts in memory, for ever --- */
payload real_count
1:	incl 0x2000
	jmp 1b
payload_end real_count

/* --- long mode: memory-mapped accesses of all widths at 3.25 GiB; what was read goes out by port --- */
	.code64
payload long_mmio
	movl $0xD0000000, %ebx
	movb $0x11, (%rbx)
	movw $0x3322, 2(%rbx)
	movl $0x77665544, 4(%rbx)
	movabsq $0xffeeddccbbaa9988, %rax
	movq %rax, 8(%rbx)
	movzbl 0x10(%rbx), %eax
	outb %al, $0x51
	movzwl 0x12(%rbx), %eax
	outw %ax, $0x52
	movl 0x14(%rbx), %eax
	outl %eax, $0x53
	movq 0x18(%rbx), %rax
	outl %eax, $0x54
	shrq $32, %rax
	outl %eax, $0x55
	outb %al, $0xF4
1:	hlt
	jmp 1b
payload_end long_mmio

/* --- long mode: a triple fault (an interrupt table without entries, then an undefined instruction) --- */
payload long_triple_fault
	lidt AT(long_triple_fault, 1f)
	ud2
1:	.word 0
	.quad 0
payload_end long_triple_fault

/* --- long mode: CPUID. In: list of leaf, subleaf pairs at 0x3000, their count at 0x2ff8. Out: four registers each at 0x4000 --- */
payload long_cpuid
	movl 0x2ff8, %ebp
	movl $0x3000, %esi
	movl $0x4000, %edi
1:	movl (%rsi), %eax
	movl 4(%rsi), %ecx
	cpuid
	movl %eax, (%rdi)
	movl %ebx, 4(%rdi)
	movl %ecx, 8(%rdi)
	movl %edx, 12(%rdi)
	addl $8, %esi
	addl $16, %edi
	decl %ebp
	jnz 1b
	outb %al, $0xF4
2:	hlt
	jmp 2b
payload_end long_cpuid

/* --- long mode: an interrupt table that answers on port 0x5n for vector 0x40 + n, on 0x58 for an NMI, on 0x59 for #GP.
 * Says 0x60 when it is ready. Pin 5 of the I/O APIC is vector 0x42, pin 2 is 0x43. --- */
	.code64
	.macro entry label offset
	/* One 16-byte gate at \offset of the table at 0x2000. */
	movl $AT(long_irqs, \label), %eax
	movw %ax, 0x2000 + \offset
	movw $0x10, 0x2002 + \offset
	movw $0x8E00, 0x2004 + \offset
	.endm
	/* The two 8259As would deliver the same lines, by vectors that nobody set. */
	.macro mask_pics
	movb $0xFF, %al
	outb %al, $0x21
	outb %al, $0xA1
	.endm
	.macro answer label port
\label:
	outb %al, $\port
	movl $0, (%rbx)
	iretq
	.endm
payload long_irqs
	mask_pics
	entry irq0 0x400
	entry irq1 0x410
	entry irq2 0x420
	entry irq3 0x430
	entry nmi 0x20
	entry gp 0xD0
	lidt AT(long_irqs, table)
	/* The APIC on, spurious vector 0xFF; rbx: its EOI register. */
	movl $0xFEE000F0, %ebx
	movl $0x1FF, (%rbx)
	movl $0xFEE000B0, %ebx
	/* I/O APIC: pin 5 to vector 0x42 and pin 2 to 0x43, edge, fixed, processor 0. */
	movl $0xFEC00000, %edi
	movl $0x1B, (%rdi)
	movl $0, 0x10(%rdi)
	movl $0x1A, (%rdi)
	movl $0x42, 0x10(%rdi)
	movl $0x15, (%rdi)
	movl $0, 0x10(%rdi)
	movl $0x14, (%rdi)
	movl $0x43, 0x10(%rdi)
	sti
	outb %al, $0x60
1:	hlt
	jmp 1b
	answer irq0 0x50
	answer irq1 0x51
	answer irq2 0x52
	answer irq3 0x53
nmi:	outb %al, $0x58
	iretq
gp:	outb %al, $0x59
	addq $8, %rsp
	addq $2, (%rsp) /* over the two-byte rdmsr */
	iretq
table:	.word 0x4FF
	.quad 0x2000
payload_end long_irqs

/* --- long mode: as above; then the 8254 ticks, and a register that the filter hides is read --- */
payload long_timer
	mask_pics
	movl $AT(long_timer, tick), %eax
	movw %ax, 0x2430
	movw $0x10, 0x2432
	movw $0x8E00, 0x2434
	movl $AT(long_timer, fault), %eax
	movw %ax, 0x20D0
	movw $0x10, 0x20D2
	movw $0x8E00, 0x20D4
	lidt AT(long_timer, table2)
	movl $0xC1, %ecx /* a performance counter */
	rdmsr
	movl $0xFEE000F0, %ebx
	movl $0x1FF, (%rbx)
	movl $0xFEE000B0, %ebx
	movl $0xFEC00000, %edi
	movl $0x15, (%rdi)
	movl $0, 0x10(%rdi)
	movl $0x14, (%rdi)
	movl $0x43, 0x10(%rdi)
	/* Counter 0, mode 2, 1193 counts: 1 ms. */
	movb $0x34, %al
	outb %al, $0x43
	movb $0xA9, %al
	outb %al, $0x40
	movb $0x04, %al
	outb %al, $0x40
	sti
1:	hlt
	jmp 1b
tick:	outb %al, $0x53
	movl $0, (%rbx)
	iretq
fault:	outb %al, $0x59
	addq $8, %rsp
	addq $2, (%rsp)
	iretq
table2:	.word 0x4FF
	.quad 0x2000
payload_end long_timer

/* --- real mode: dirties two pages, says so, again --- */
	.code16
payload real_dirty
1:	incb 0x5000
	incb 0x7FFF
	outb %al, $0xF4
	jmp 1b
payload_end real_dirty

/* --- real mode: writes a port for ever --- */
payload real_chatter
1:	outb %al, $0x50
	incl 0x2000
	jmp 1b
payload_end real_chatter

/* --- real mode: sleeps for ever --- */
payload real_sleep
1:	hlt
	jmp 1b
payload_end real_sleep

/* --- long mode, processor 0: starts processor 1 at 0x7000, then both add 20000 to a counter --- */
	.code64
payload long_smp
	movl $0xFEE000F0, %ebx
	movl $0x1FF, (%rbx)
	movl $0xFEE00300, %ebx
	movl $0x01000000, 0x10(%rbx) /* to APIC 1 */
	movl $0x4500, (%rbx)	     /* INIT */
	movl $0x4607, (%rbx)	     /* SIPI, page 7 */
	movl $20000, %ecx
1:	lock incl 0x2000
	loop 1b
2:	pause
	cmpb $1, 0x2010
	jne 2b
	movl 0x2000, %eax
	outl %eax, $0x54
	outb %al, $0xF4
3:	hlt
	jmp 3b
payload_end long_smp

	.code16
payload real_second
	xorw %ax, %ax
	movw %ax, %ds
	movl $20000, %ecx
1:	lock incl 0x2000
	loop 1b
	movb $1, 0x2010
	outb %al, $0x56
2:	hlt
	jmp 2b
payload_end real_second

/* --- long mode: a computation over general and vector registers; a question half-way, the answer goes in too --- */
	.code64
payload long_compute
	movq %cr0, %rax
	andl $~4, %eax
	movq %rax, %cr0
	movl $0x620, %eax /* CR4: PAE, OSFXSR, OSXMMEXCPT */
	movq %rax, %cr4
	movabsq $6364136223846793005, %r8
	movabsq $1442695040888963407, %r9
	movl $0x1234, %r10d
	movl $0x176, %ecx /* SYSENTER_EIP */
	movl $0x5678, %eax
	xorl %edx, %edx
	wrmsr
	movl $2, %r15d
1:	movq %r10, 0x2100
	movq %r8, 0x2108
	movups 0x2100, %xmm1 /* interpreters know how to move vectors, but not how to compute */
	movups %xmm1, 0x2110
	movups 0x2108, %xmm9
	movl $1500, %ecx
2:	imulq %r8, %r10
	addq %r9, %r10
	pushq %r10
	popq %r11
	addq %r11, 0x2000
	loop 2b
	inl $0x57, %eax
	addq %rax, %r10
	movups %xmm9, 0x2120
	addq 0x2120, %r10
	addq 0x2128, %r10
	decl %r15d
	jnz 1b
	movl $0x176, %ecx
	rdmsr
	addq %rax, %r10
	movups %xmm1, 0x2130
	movq 0x2130, %rax
	addq %r10, %rax
	addq 0x2000, %rax
	outl %eax, $0x54
	shrq $32, %rax
	outl %eax, $0x55
	outb %al, $0xF4
3:	hlt
	jmp 3b
payload_end long_compute

/* --- long mode: shows the time stamp counter, for ever --- */
payload long_tsc
1:	rdtsc
	outl %eax, $0x54
	movl %edx, %eax
	outl %eax, $0x55
	outb %al, $0xF4
	jmp 1b
payload_end long_tsc

/* --- long mode: a stack at 16 MiB + 0x1000, far from the code at 0x1000 by a multiple of what many caches index by. The page table maps
 * 16 MiB to 2 MiB. Pushes from memory and calls, as functions that align their stack begin --- */
payload long_alias
	movabsq $0x9000 + 0x2000 + 8 * 8, %rax
	movq $0x200083, (%rax)
	movq %cr3, %rax
	movq %rax, %cr3
	movl $0x1001800, %esp
	movq $0x1234, -8(%rsp)
	xorl %ebx, %ebx
	movl $20000, %ecx
1:	call 3f
	decl %ecx
	jnz 1b
	movl %ebx, %eax
	outl %eax, $0x54
	outb %al, $0xF4
2:	hlt
	jmp 2b
	.balign 64
3:	leaq 8(%rsp), %r10
	andq $-16, %rsp
	pushq -8(%r10)
	pushq %rbp
	movq %rsp, %rbp
	pushq %r10
	addl $3, %ebx
	movq -8(%rbp), %r10
	leave
	leaq -8(%r10), %rsp
	ret
payload_end long_alias

	.section .note.GNU-stack, "", @progbits
